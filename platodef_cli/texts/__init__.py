"""Text references: sentences about images, the text towers that read them, the models that write them."""

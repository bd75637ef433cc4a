"""What an audit does to an encoder whose trigger is unknown."""

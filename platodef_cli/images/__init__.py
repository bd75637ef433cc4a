"""Image sources: where an audit gets its calibration images from."""

"""What HTML pages share: their frame, the slider between images, and pages of image files."""

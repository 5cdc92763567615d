"""From typed words and files to one configuration: parser, layers, help, saved configurations."""

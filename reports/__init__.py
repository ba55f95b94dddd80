"""All that reads result files, and the file format itself. Works without locust and without the engines."""

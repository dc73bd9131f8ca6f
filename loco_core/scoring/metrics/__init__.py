"""The metrics of edited pictures, one file each; the name of a file is the key of the metric."""

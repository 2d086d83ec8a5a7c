"""The method and the decisions: semi-supervised segmentation of tissue; knows no database or server, and importing it loads no torch."""

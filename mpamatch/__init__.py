"""The method and the decisions: semi-supervised segmentation of tissue; knows no database or server.

Importing this loads no torch.
"""

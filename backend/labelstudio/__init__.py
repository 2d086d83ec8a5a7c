"""The dialect of Label Studio: its API, webhooks, results and labelling configurations as plain values.

Knows no rows and no database; everything here was checked against label-studio 1.23.2.
"""

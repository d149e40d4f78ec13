"""What is measured, a file for each story; the table of all rows is in localization.py."""

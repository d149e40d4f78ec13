"""Measures bundles on this machine; `kittiwake bench` is its command line.

statistics.py says what can be claimed from so many samples, measure.py takes them, cold_start.py takes what only a
fresh process shows, results.py makes a file of it, compare.py sets two files side by side, plot.py draws.
"""

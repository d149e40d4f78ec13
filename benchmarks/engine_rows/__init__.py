"""The rows of benchmarks/engines.py: each module measures figures under one prefix of ids."""

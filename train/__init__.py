"""Retrain speaker models and tune their thresholds: ``python -m train --help``."""

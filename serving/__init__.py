"""Serving: a BentoML service around one `Classifier`. Never imports `flows`, mlflow or prefect."""

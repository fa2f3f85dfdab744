"""Access to MLflow: its store, runs, artifacts and model registry. No other package imports `mlflow`."""

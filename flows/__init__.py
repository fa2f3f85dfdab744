"""When, in what order, and what is remembered: Prefect flows, MLflow tracking, the command line."""

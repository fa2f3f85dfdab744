"""Where this program meets its machine and its tools, one module for each of them; `flows.doctor` looks."""

"""HTTP in, jobs out, results back."""

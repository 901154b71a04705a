"""GPU worker: takes jobs, runs them on its engine, stores the pictures and tells what became of each task."""

"""Many cells: engines that cells share, finalists, races, the journal on disk and the report."""

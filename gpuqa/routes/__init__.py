"""The routes, one file a kind; each has a `router(service, ...)` that `gpuqa.server` puts into the application."""

"""The routes, one file a kind; each has a `router(service, ...)` that `gpuqa.serving.app` puts into the application."""

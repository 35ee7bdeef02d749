"""How the engine is deployed: compose files, the local runner that reads them, Kubernetes and observability."""

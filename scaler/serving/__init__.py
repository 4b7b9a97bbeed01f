"""The plan, to KEDA over gRPC and to people over HTTP."""

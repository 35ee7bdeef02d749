"""From the configuration to the gateway. Owns that translation."""

from __future__ import annotations

import os
from hashlib import blake2b
from typing import Any

from orbit.chassis.config import Config
from orbit.chassis.tracing import DISABLED, Tracing
from services.gateway.service import GatewayService, Secrets
from services.storage.client import Backend


def make_gateway(
    config: Config, coordination: Any, backend: Backend | None, tracing: Tracing = DISABLED
) -> GatewayService:
    """Return the gateway that the configuration describes, not started."""
    return GatewayService(config, coordination, _secrets(config), backend, tracing)


def _secrets(config: Config) -> Secrets:
    """Gateways behind one load balancer must agree; without a shared password each has its own."""
    seed = config.bootstrap.password.get_secret_value().encode() or os.urandom(32)
    return Secrets(
        token=blake2b(seed, person=b"orbit-rest-token").digest()[:32],
        mock=blake2b(seed, person=b"orbit-scram-mock").digest()[:32],
    )

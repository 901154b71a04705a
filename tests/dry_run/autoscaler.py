"""What KEDA and the autoscaler of Kubernetes do with a ScaledObject's numbers, without a cluster.

KEDA, between none and one (https://keda.sh/docs/2.16/concepts/scaling-deployments/): every `pollingInterval`, a value
above `activationTargetValue` starts the first replica; once there has been none for `cooldownPeriod`, all go.

The HorizontalPodAutoscaler that KEDA makes, from one to `maxReplicaCount`, with the value as an average per pod
(https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details): every 15 s it wants
`ceil(value / targetValue)` replicas, unless that is within a tenth of what there are. Going down it takes the largest
number that it wanted within the stabilization window. Policies bound how many come or go within their period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from contract.manifests import Document

#: The controller manager's own defaults: `--horizontal-pod-autoscaler-sync-period` and `-tolerance`.
_SYNC_S = 15.0
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Policy:
    """At most `num_pods` come, or go, within `period_s`."""

    num_pods: int
    period_s: float


@dataclass(frozen=True)
class Scaling:
    """The numbers of a ScaledObject."""

    max_replicas: int
    polling_s: float
    cooldown_s: float
    target: float
    activation: float
    up: Policy
    down: Policy
    down_window_s: float

    @classmethod
    def of(cls, scaled_object: Document) -> Self:
        """As they stand in the manifest."""
        spec = scaled_object["spec"]
        assert spec["minReplicaCount"] == 0
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        [trigger] = spec["triggers"]
        return cls(
            max_replicas=spec["maxReplicaCount"],
            polling_s=spec["pollingInterval"],
            cooldown_s=spec["cooldownPeriod"],
            target=float(trigger["metadata"]["targetValue"]),
            activation=float(trigger["metadata"]["activationTargetValue"]),
            up=_policy(behavior["scaleUp"]),
            down=_policy(behavior["scaleDown"]),
            down_window_s=behavior["scaleDown"]["stabilizationWindowSeconds"],
        )


class Autoscaler:
    """Decides about the replicas of one Deployment. All times are seconds of one clock, be it a simulated one."""

    def __init__(self, scaling: Scaling) -> None:
        self._scaling = scaling
        self.replicas = 0
        self._polled_at = self._synced_at = self._active_at = -math.inf
        #: What was wanted, and when.
        self._wanted: list[tuple[float, int]] = []
        #: How many came (or went, below zero), and when.
        self._changes: list[tuple[float, int]] = []

    def decide(self, now_s: float, depth: float) -> int:
        """How many replicas there shall be, where the value of the trigger is `depth`. Call it often."""
        if now_s - self._polled_at >= self._scaling.polling_s:
            self._polled_at = now_s
            self._poll(now_s, depth)
        if now_s - self._synced_at >= _SYNC_S and self.replicas:
            self._synced_at = now_s
            self._sync(now_s, depth)
        return self.replicas

    def _poll(self, now_s: float, depth: float) -> None:
        if depth > self._scaling.activation:
            self._active_at = now_s
            self.replicas = max(self.replicas, 1)
        elif now_s - self._active_at > self._scaling.cooldown_s:
            self.replicas = 0
            self._wanted.clear()

    def _sync(self, now_s: float, depth: float) -> None:
        scaling = self._scaling
        ratio = depth / (scaling.target * self.replicas)
        wanted = self.replicas if abs(1 - ratio) <= _TOLERANCE else math.ceil(depth / scaling.target)
        wanted = min(max(wanted, 1), scaling.max_replicas)
        self._wanted = [each for each in self._wanted if each[0] > now_s - scaling.down_window_s] + [(now_s, wanted)]
        if wanted < self.replicas:
            wanted = min(max(number for _, number in self._wanted), self.replicas)
        most = self.replicas - self._changed(now_s, scaling.up.period_s, 1) + scaling.up.num_pods
        least = self.replicas + self._changed(now_s, scaling.down.period_s, -1) - scaling.down.num_pods
        bounded = min(max(wanted, min(least, self.replicas)), max(most, self.replicas))
        if bounded != self.replicas:
            self._changes.append((now_s, bounded - self.replicas))
            self.replicas = bounded

    def _changed(self, now_s: float, period_s: float, sign: int) -> int:
        """How many came (`sign` 1) or went (-1) within the last period."""
        return sum(sign * number for at, number in self._changes if at > now_s - period_s and sign * number > 0)


def _policy(rules: Document) -> Policy:
    [policy] = rules["policies"]
    assert policy["type"] == "Pods"
    return Policy(policy["value"], policy["periodSeconds"])

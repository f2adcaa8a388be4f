"""The stand-in for kubectl: `get deployment` and `scale deployment` on the one deployment that all hosts share.

Words and statuses follow kubectl 1.30. Without `-n` the namespace is `default`, where there is nothing.
"""

import json
import time
from datetime import UTC, datetime
from typing import Any

from responder.lab.call import Call, Parser, UsageError
from responder.lab.gateway import READY_AFTER_S, ready_replicas
from responder.lab.shared import State, scale

KINDS = ("deployment", "deployments", "deploy", "deployment.apps", "deployments.apps")


class KubectlError(Exception):
    """The text is all that kubectl says; its status is 1."""


def kubectl(call: Call, argv: list[str]) -> int:
    parser = Parser()
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("-o", "--output", choices=("json", "name"))
    for option in ("--replicas", "--current-replicas"):
        parser.add_argument(option, type=int, default=-1)
    parser.add_argument("--resource-version", default="")
    for option in ("--kubeconfig", "--context", "--request-timeout"):  # there is one cluster, and it answers
        parser.add_argument(option)
    parser.add_argument("verb", choices=("get", "scale"))
    parser.add_argument("what", nargs="*")
    try:
        options = parser.parse_intermixed_args(argv)
    except UsageError as error:
        call.err(f"error: {error}")
        return 1
    kind, _, name = options.what[0].partition("/") if options.what else ("", "", "")
    names = [name] if name else options.what[1:]
    try:
        if kind not in KINDS or len(names) != 1:
            raise KubectlError("error: this cluster is asked for one deployment by its name")
        if options.verb == "get":
            call.out(_shown(_find(call.machine.shared.read(), options.namespace, names[0]), options.output))
        else:
            _scale(call, options, names[0])
            call.out(f"deployment.apps/{names[0]}{'' if options.output == 'name' else ' scaled'}")
    except KubectlError as error:
        call.err(str(error))
        return 1
    return 0


def _find(state: State, namespace: str, name: str) -> dict[str, Any]:
    deployment = state["deployment"]
    if not deployment["exists"] or (namespace, name) != (deployment["namespace"], deployment["name"]):
        raise KubectlError(f'Error from server (NotFound): deployments.apps "{name}" not found')
    return deployment


def _scale(call: Call, options: Any, name: str) -> None:
    if options.replicas < 0:
        flag = "The --replicas=COUNT flag is required, and COUNT must be greater than or equal to 0"
        raise KubectlError(f"error: {flag}")

    def change(state: State) -> str:
        deployment = _find(state, options.namespace, name)
        before, version = deployment["replicas"], _version(deployment)
        if options.current_replicas not in (-1, before):
            raise KubectlError(f"error: Expected replicas to be {options.current_replicas}, was {before}")
        if options.resource_version not in ("", version):
            raise KubectlError(f"error: Expected resource version to be {options.resource_version}, was {version}")
        if before != options.replicas:
            scale(deployment, options.replicas)
        return f"{before} -> {options.replicas}"

    detail = call.machine.shared.change(change)
    call.machine.unit.count("scale", unit=f"deployment/{name}", detail=detail)


def _version(deployment: dict[str, Any]) -> str:
    """The object's version, which its status changes, too: once when the replicas have become ready."""
    return str(deployment["version"] + _settled(deployment))


def _settled(deployment: dict[str, Any]) -> bool:
    scaled_at: float = deployment["scaled_at"]
    return time.time() >= scaled_at + READY_AFTER_S


def _shown(deployment: dict[str, Any], output: str | None) -> str:
    name, replicas, ready = deployment["name"], deployment["replicas"], ready_replicas(deployment, time.time())
    if output == "name":
        return f"deployment.apps/{name}"
    if not output:
        days = int((time.time() - deployment["created_at"]) // 86400)
        heads = f"{'NAME':{len(name) + 3}}READY   UP-TO-DATE   AVAILABLE   AGE"
        row = f"{name}   {f'{ready}/{replicas}':8}{replicas:<13}{ready:<12}{days}d"
        return f"{heads}\n{row}"
    observed = deployment["generation"] - (time.time() < deployment["scaled_at"] + READY_AFTER_S / 4)
    labels = {"app.kubernetes.io/name": name}
    counts = {
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": replicas - ready,
    }
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name,
            "namespace": deployment["namespace"],
            "labels": labels,
            "creationTimestamp": f"{datetime.fromtimestamp(deployment['created_at'], UTC):%Y-%m-%dT%H:%M:%SZ}",
            "generation": deployment["generation"],
            "resourceVersion": _version(deployment),
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"}},
        # A count of 0 is left out, as the API server leaves it out.
        "status": {"observedGeneration": observed} | {key: value for key, value in counts.items() if value},
    }
    return json.dumps(document, indent=4)

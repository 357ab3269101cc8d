"""Which fields the files of deploy/ may use: as far as we use them, of the published references.

- ray.io/v1: https://ray-project.github.io/kuberay/reference/api/ (KubeRay 1.6)
- core, apps/v1, networking.k8s.io/v1: https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/
- Compose: https://github.com/compose-spec/compose-spec/blob/main/spec.md
- Prometheus: https://prometheus.io/docs/prometheus/latest/configuration/configuration/
- Grafana: https://grafana.com/docs/grafana/latest/administration/provisioning/ and .../dashboards/build-dashboards/
- Google's instances: https://cloud.google.com/compute/docs/reference/rest/v1/instances

No package carries the schemas of KubeRay, of a recent Compose or of Grafana, and that which carries Kubernetes' own is
22 MB. Amazon's and Ray's are read from the packages that have them, in the tests.
"""

from typing import Any

TEXTS = {"*": str}
"""Any keys, with texts for values."""
_METADATA = {"name": str, "namespace": str, "labels": TEXTS, "annotations": TEXTS}
_SELECTOR = {"matchLabels": TEXTS, "matchExpressions": [{"key": str, "operator": str, "values": [str]}]}
_SECRET = {"name": str, "key": str, "optional": bool}
_CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "value": str, "valueFrom": {"secretKeyRef": _SECRET}}],
    "envFrom": [{"secretRef": {"name": str, "optional": bool}}],
    "ports": [{"containerPort": int, "name": str, "protocol": str}],
    "resources": {"requests": TEXTS, "limits": TEXTS},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"drop": [str]},
    },
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
    "readinessProbe": {"httpGet": {"path": str, "port": (str, int)}, "periodSeconds": int},
    "livenessProbe": {"httpGet": {"path": str, "port": (str, int)}, "periodSeconds": int},
}
_POD = {
    "automountServiceAccountToken": bool,
    "securityContext": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "fsGroup": int,
        "seccompProfile": {"type": str},
    },
    "initContainers": [_CONTAINER],
    "containers": [_CONTAINER],
    "tolerations": [{"key": str, "operator": str, "effect": str}],
    "volumes": [
        {
            "name": str,
            "configMap": {"name": str},
            "secret": {"secretName": str},
            "persistentVolumeClaim": {"claimName": str},
            "emptyDir": {"medium": str},
        }
    ],
}
_TEMPLATE = {"metadata": _METADATA, "spec": _POD}
_RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str, "secretName": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"idleTimeoutSeconds": int, "securityContext": _CONTAINER["securityContext"]},
    "headGroupSpec": {"rayStartParams": TEXTS, "serviceType": str, "template": _TEMPLATE},
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": TEXTS,
            "template": _TEMPLATE,
        }
    ],
}
_PEERS = [{"podSelector": _SELECTOR, "namespaceSelector": _SELECTOR}]
_PORTS = [{"protocol": str, "port": int}]
_SPECS: dict[tuple[str, str], Any] = {
    ("ray.io/v1", "RayCluster"): _RAY_CLUSTER,
    ("ray.io/v1", "RayJob"): {
        "entrypoint": str,
        "submissionMode": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "backoffLimit": int,
        "rayClusterSpec": _RAY_CLUSTER,
    },
    ("v1", "Service"): {
        "selector": TEXTS,
        "ports": [{"name": str, "port": int, "targetPort": (str, int)}],
    },
    ("v1", "PersistentVolumeClaim"): {"accessModes": [str], "resources": {"requests": TEXTS}},
    ("apps/v1", "Deployment"): {
        "replicas": int,
        "strategy": {"type": str},
        "selector": _SELECTOR,
        "template": _TEMPLATE,
    },
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector": _SELECTOR,
        "policyTypes": [str],
        "ingress": [{"from": _PEERS, "ports": _PORTS}],
        "egress": [{"to": _PEERS, "ports": _PORTS}],
    },
}
_SERVICE = {
    "build": {"context": str, "dockerfile": str},
    "image": str,
    "pull_policy": str,
    "command": [str],
    "user": str,
    "environment": TEXTS,
    "ports": [str],
    "volumes": [str],
    "init": bool,
    "shm_size": str,
    "read_only": bool,
    "tmpfs": [str],
    "cap_drop": [str],
    "security_opt": [str],
    "stop_grace_period": str,
    "restart": str,
}
_SOURCE = {"type": str, "uid": str}
_PANEL = {
    "id": int,
    "type": str,
    "title": str,
    "description": str,
    "datasource": _SOURCE,
    "gridPos": {"h": int, "w": int, "x": int, "y": int},
    "fieldConfig": {"defaults": {"unit": str, "min": int}, "overrides": []},
    "options": {
        "legend": {"displayMode": str, "placement": str, "showLegend": bool},
        "tooltip": {"mode": str, "sort": str},
    },
    "targets": [{"refId": str, "datasource": _SOURCE, "expr": str, "legendFormat": str}],
}
FILES: dict[str, Any] = {
    "compose.yaml": {
        "name": str,
        "services": {"*": _SERVICE},
        "volumes": {"*": {}},
    },
    "monitoring/prometheus.yaml": {
        "global": {"scrape_interval": str},
        "scrape_configs": [
            {
                "job_name": str,
                "authorization": {"type": str, "credentials_file": str},
                "static_configs": [{"targets": [str]}],
            }
        ],
    },
    "monitoring/datasource.yaml": {
        "apiVersion": int,
        "datasources": [{"name": str, "uid": str, "type": str, "access": str, "url": str, "isDefault": bool}],
    },
    "monitoring/provider.yaml": {
        "apiVersion": int,
        "providers": [{"name": str, "type": str, "options": {"path": str}}],
    },
    "monitoring/dashboard.json": {
        "id": type(None),
        "uid": str,
        "title": str,
        "tags": [str],
        "schemaVersion": int,
        "version": int,
        "editable": bool,
        "timezone": str,
        "refresh": str,
        "time": {"from": str, "to": str},
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": str,
                    "label": str,
                    "type": str,
                    "datasource": _SOURCE,
                    "query": {"query": str, "refId": str},
                    "definition": str,
                    "refresh": int,
                    "sort": int,
                    "multi": bool,
                    "includeAll": bool,
                    "allValue": str,
                    "current": {"text": str, "value": str},
                }
            ]
        },
        "panels": [_PANEL],
    },
}
GOOGLE_NODE = {
    "machineType": str,
    "disks": [
        {
            "boot": bool,
            "autoDelete": bool,
            "type": str,
            "initializeParams": {"diskSizeGb": int, "sourceImage": str},
        }
    ],
    "scheduling": {"preemptible": bool, "onHostMaintenance": str},
}


def shape_of(file: str, document: Any) -> Any:
    """The fields of a document: by its file, or by what kind of Kubernetes object it is."""
    if file in FILES:
        return FILES[file]
    spec = _SPECS[document["apiVersion"], document["kind"]]
    return {"apiVersion": str, "kind": str, "metadata": _METADATA, "spec": spec}


def unknown(value: Any, shape: Any, path: str = "") -> list[str]:
    """The paths of what a document has and its shape has not, and of values of a wrong type."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return [path]
        known = {key: shape.get(key, shape.get("*")) for key in value}
        found = [f"{path}.{key}" for key, inner in known.items() if inner is None]
        return found + [
            each
            for key, inner in known.items()
            if inner is not None
            for each in unknown(value[key], inner, f"{path}.{key}")
        ]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [path]
        inner = shape[0] if shape else {}
        return [each for i, item in enumerate(value) for each in unknown(item, inner, f"{path}[{i}]")]
    wrong = isinstance(value, bool) and shape is not bool
    return [path] if wrong or not isinstance(value, shape) else []

"""Write the JSON schemas of custom resources, read from npm packages `@kubernetes-models/*`.

    npm pack @kubernetes-models/keda@2.0.0 @kubernetes-models/prometheus-operator@6.0.0
    python -m tests.support.extract_schemas kubernetes-models-*.tgz

These packages are generated from the Go types of KEDA and of the Prometheus operator. They hold
compiled validators: JavaScript of one form, in which each check names its keyword. What they take
from Kubernetes itself is left to the schemas of `kubernetes_validate`.
"""

from __future__ import annotations

import json
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.custom_resources import KUBERNETES_TYPES, SCHEMAS, kubernetes_types

KINDS = {
    "ComGithubKedacoreKedaV2ApisKedaV1alpha1ScaledObject",
    "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1PrometheusRule",
    "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1ServiceMonitor",
}

Schema = dict[str, Any]

_IMPORT = re.compile(r'import\{validate as (validate\d+)\}from"([^"]+)";?')
_FUNCTION = re.compile(r"function (validate\d+)\(data,")
_CHECK = re.compile(r'keyword:"(\w+)",params:\{(.*?)\}\};')
_VALIDATED = {
    "allOf": re.compile(r"(validate\d+)\(data,\{"),
    "items": re.compile(r"(validate\d+)\(data\[i\d+\],"),
    "additionalProperties": re.compile(r"(validate\d+)\(data\[key\d+\],"),
}
_PROPERTY = re.compile(r'(validate\d+)\(data(?:\.(\w+)|\["([^"]+)"\]),')
_IGNORED = ("format", "required")


def main(packages: list[str]) -> None:
    modules = dict(module for package in packages for module in _read(Path(package)))
    SCHEMAS.mkdir(exist_ok=True)
    for name in KINDS:
        schema = _closed(Validator(name, modules).schema())
        del schema["properties"]["status"]
        [kind] = schema["properties"]["kind"]["enum"]
        text = json.dumps(schema, indent=1, sort_keys=True)
        (SCHEMAS / f"{kind.lower()}.json").write_text(f"{text}\n")


def _read(package: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each validator of a package."""
    with tarfile.open(package) as archive:
        for member in archive:
            path = Path(member.name)
            content = archive.extractfile(member)
            if path.parent.name == "_schemas" and path.suffix == ".js" and content is not None:
                yield path.stem, content.read().decode()


class Validator:
    """A compiled validator: functions that check values, and call each other for parts of them."""

    def __init__(self, name: str, modules: dict[str, str]) -> None:
        self._modules = modules
        self._source = modules[name]
        self._imports = dict(_IMPORT.findall(self._source))
        source = _IMPORT.sub("", self._source)
        starts = list(_FUNCTION.finditer(source))
        ends = [*(start.start() for start in starts[1:]), len(source)]
        self._functions = {
            start[1]: source[start.end() : end] for start, end in zip(starts, ends, strict=True)
        }

    def schema(self) -> Schema:
        """Return the schema that the validator was compiled from, with all that it refers to."""
        [exported] = re.findall(r"export const validate=(validate\d+);", self._source)
        return self._schema(exported)

    def _schema(self, function: str) -> Schema:
        if function in self._imports:
            return self._imported(Path(self._imports[function]).stem)
        body = self._functions[function]
        parts = {
            keyword: [self._schema(called) for called in pattern.findall(body)]
            for keyword, pattern in _VALIDATED.items()
        }
        schema = dict(self._checks(body))
        for whole in parts.pop("allOf"):
            schema = _joined(schema, whole)
        for keyword, schemas in parts.items():
            if schemas:
                [schema[keyword]] = schemas
        if required := re.findall(r'missingProperty:"([^"]+)"', body):
            schema = _joined(schema, {"required": sorted(required)})
        properties = _PROPERTY.findall(body)
        own = {plain or quoted: self._schema(called) for called, plain, quoted in properties}
        return _joined(schema, {"properties": own}) if own else schema

    def _imported(self, name: str) -> Schema:
        if name in self._modules:
            return Validator(name, self._modules).schema()
        types = {known.replace(".", "").lower(): known for known in kubernetes_types()["$defs"]}
        return {"$ref": f"{KUBERNETES_TYPES}#/$defs/{types[name.lower()]}"}

    def _checks(self, body: str) -> Iterator[tuple[str, Any]]:
        for keyword, parameters in _CHECK.findall(body):
            value = parameters.rpartition("limit:")[2] if "limit:" in parameters else parameters
            if keyword == "enum":
                [value] = re.findall(
                    rf"let {parameters.partition(':')[2]}=(\[.*?\]);", self._source
                )
                yield keyword, json.loads(value)
            elif keyword not in _IGNORED:
                checked = json.loads(value.removeprefix(f"{keyword}:"))
                # Python has flags before everything else.
                yield (
                    keyword,
                    checked.replace("^(?i)", "(?i)^") if keyword == "pattern" else checked,
                )


def _joined(one: Schema, other: Schema) -> Schema:
    """Return the schema with the checks of both: embedded types of Go share one object."""
    joined = one | other
    for keyword in ("properties", "required"):
        if keyword in one and keyword in other:
            joined[keyword] = _union(one[keyword], other[keyword])
    return joined


def _union(one: Any, other: Any) -> Any:
    return one | other if isinstance(one, dict) else sorted({*one, *other})


def _closed(schema: Any) -> Any:
    """Refuse properties that a type does not have, as the API server does."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    return closed | {"additionalProperties": False} if "properties" in schema else closed


if __name__ == "__main__":
    main(sys.argv[1:])

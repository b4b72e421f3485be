{{/* Name of the release's objects. */}}
{{- define "earshot.name" -}}
{{- if contains "earshot" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-earshot{{ end }}
{{- end }}

{{/* Labels that select the pods of a component: include "earshot.selector" (list . "replica"). */}}
{{- define "earshot.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: earshot
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* All labels of a component. */}}
{{- define "earshot.labels" -}}
{{- $root := index . 0 -}}
{{ include "earshot.selector" . }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version }}
{{- end }}

{{/* Security context: no container of this chart needs these privileges. */}}
{{- define "earshot.confined" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Selector of the nodes with the GPU of the values, and the toleration of their taint. */}}
{{- define "earshot.gpuNodes" -}}
{{- if .Values.gpu.enabled -}}
{{- with .Values.gpu.product -}}
nodeSelector: { nvidia.com/gpu.product: {{ . }} }
{{ end -}}
tolerations: [{ key: nvidia.com/gpu, operator: Exists, effect: NoSchedule }]
{{- end }}
{{- end }}

{{/* Resources of a container that uses one GPU, if gpu.enabled. */}}
{{- define "earshot.resources" -}}
requests: {{- toYaml .Values.server.resources.requests | nindent 2 }}
limits:
  {{- toYaml .Values.server.resources.limits | nindent 2 }}
  {{- if .Values.gpu.enabled }}
  {{ .Values.gpu.resource }}: 1
  {{- end }}
{{- end }}

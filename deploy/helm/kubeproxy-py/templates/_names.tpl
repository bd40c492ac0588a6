{{- define "kubeproxy-py.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "kubeproxy-py.fullname" -}}
{{ .Values.fullnameOverride | default (include "kubeproxy-py.name" .) | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "kubeproxy-py.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "kubeproxy-py.fullname" .) }}
{{- end -}}

{{- define "kubeproxy-py.configMap" -}}
{{ .Values.existingConfigMap | default (include "kubeproxy-py.fullname" .) }}
{{- end -}}

{{- define "kubeproxy-py.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- /* What selects the pods; it cannot change in an upgrade. */ -}}
{{- define "kubeproxy-py.selector" -}}
app.kubernetes.io/name: {{ include "kubeproxy-py.name" . }}
{{- end -}}

{{- define "kubeproxy-py.labels" -}}
{{ include "kubeproxy-py.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: service-proxy
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* The metadata of an object: a list of the root, its name, its namespace ("": none), its own labels and annotations. */ -}}
{{- define "kubeproxy-py.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 }}
{{- with index . 2 }}
namespace: {{ . }}
{{- end }}
labels:
  {{- include "kubeproxy-py.labels" $root | nindent 2 }}
  {{- with index . 3 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (index . 4) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kubeproxy-py.metricsAddress" -}}
{{ .Values.config.metricsBindAddress | default "127.0.0.1:10249" }}
{{- end -}}

{{- define "kubeproxy-py.healthzAddress" -}}
{{ .Values.config.healthzBindAddress | default "0.0.0.0:10256" }}
{{- end -}}

{{- /* The port of ADDRESS:PORT or [ADDRESS]:PORT, or the default if there is none, as in 0.0.0.0 and fd00::1. */ -}}
{{- define "kubeproxy-py.metricsPort" -}}
{{ regexFind "^([^:]*|\\[.*\\]):[0-9]+$" (include "kubeproxy-py.metricsAddress" .) | regexFind "[0-9]+$" | default "10249" }}
{{- end -}}

{{- define "kubeproxy-py.healthzPort" -}}
{{ regexFind "^([^:]*|\\[.*\\]):[0-9]+$" (include "kubeproxy-py.healthzAddress" .) | regexFind "[0-9]+$" | default "10256" }}
{{- end -}}

{{- /* The fields that both containers share. */ -}}
{{- define "kubeproxy-py.container" -}}
image: {{ include "kubeproxy-py.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/local/bin/kube-proxy]
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* How Prometheus scrapes: a list of the root and the values of a monitor. */ -}}
{{- define "kubeproxy-py.scrape" -}}
{{- $monitor := index . 1 -}}
{{- with $monitor.interval }}
interval: {{ . }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  # The job name of kube-proxy, which the rules of kubernetes-mixin select.
  - {targetLabel: job, replacement: {{ $monitor.jobName }}, action: replace}
  - {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: node, action: replace}
  - {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: instance, action: replace}
  {{- with $monitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $monitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

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
app.kubernetes.io/name: {{ include "kubeproxy-py.name" . | quote }}
{{- end -}}

{{- define "kubeproxy-py.chartLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: service-proxy
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- /* The labels of an object: a list of the root and the object's own; each key once, the first of these wins. */ -}}
{{- define "kubeproxy-py.labels" -}}
{{- $root := index . 0 -}}
{{- $selector := include "kubeproxy-py.selector" $root | fromYaml -}}
{{- toYaml (merge $selector (index . 1 | default dict) ($root.Values.commonLabels | default dict) (include "kubeproxy-py.chartLabels" $root | fromYaml)) -}}
{{- end -}}

{{- /* The metadata of an object: a list of the root, its name, its namespace ("": none), its own labels and annotations. */ -}}
{{- define "kubeproxy-py.metadata" -}}
{{- $root := index . 0 -}}
name: {{ index . 1 | quote }}
{{- with index . 2 }}
namespace: {{ . | quote }}
{{- end }}
labels:
  {{- include "kubeproxy-py.labels" (list $root (index . 3)) | nindent 2 }}
{{- with merge (dict) (index . 4 | default dict) ($root.Values.commonAnnotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kubeproxy-py.metricsAddress" -}}
{{ (.Values.config | default dict).metricsBindAddress | default "127.0.0.1:10249" }}
{{- end -}}

{{- define "kubeproxy-py.healthzAddress" -}}
{{ (.Values.config | default dict).healthzBindAddress | default "0.0.0.0:10256" }}
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
image: {{ include "kubeproxy-py.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | default "IfNotPresent" }}
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
interval: {{ . | quote }}
{{- end }}
{{- with $monitor.scrapeTimeout }}
scrapeTimeout: {{ . | quote }}
{{- end }}
relabelings:
  # The job name of kube-proxy, which the rules of kubernetes-mixin select.
  - {targetLabel: job, replacement: {{ $monitor.jobName | default "kube-proxy" | quote }}, action: replace}
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

{{- /* The groups of rules, for the job that the monitors give, with the changes of single alerts. */ -}}
{{- define "kubeproxy-py.ruleGroups" -}}
{{- $values := .Values.prometheusRule -}}
{{- $job := ternary .Values.serviceMonitor.jobName .Values.podMonitor.jobName (.Values.serviceMonitor.enabled | default false) -}}
{{- $changes := deepCopy ($values.alerts | default dict) -}}
{{- $groups := list -}}
{{- range $group := (.Files.Get "files/rules.yaml" | fromYaml).groups -}}
{{- $rules := list -}}
{{- range $rule := $group.rules -}}
{{- $_ := set $rule "expr" (replace "job=\"kube-proxy\"" (printf "job=%q" ($job | default "kube-proxy")) $rule.expr) -}}
{{- with $rule.annotations -}}
{{- $_ := set . "runbook_url" (regexReplaceAllLiteral "^[^#]*" .runbook_url ($values.runbookUrl | default .runbook_url)) -}}
{{- end -}}
{{- $name := $rule.alert | default "" -}}
{{- $change := get $changes $name | default dict -}}
{{- $changes = omit $changes $name -}}
{{- if dig "enabled" true $change -}}
{{- $rules = append $rules (mergeOverwrite $rule (omit $change "enabled")) -}}
{{- end -}}
{{- end -}}
{{- $groups = append $groups (dict "name" $group.name "rules" $rules) -}}
{{- end -}}
{{- range $name, $_ := $changes -}}
{{- fail (printf "prometheusRule.alerts: there is no alert %s" $name) -}}
{{- end -}}
{{- toYaml (concat $groups ($values.extraGroups | default list)) -}}
{{- end -}}

{{- /* A quantity of Kubernetes, such as 1.5Gi, as a number. */ -}}
{{- define "kubeproxy-py.amount" -}}
{{- $text := toString . -}}
{{- $digits := regexFind "^[+]?[0-9.]+([eE][-+]?[0-9]+)?" $text -}}
{{- $factors := dict "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 -}}
{{- $powers := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $suffix := trimPrefix $digits $text -}}
{{- mulf (float64 $digits) (index (merge (dict "" 1) $factors $powers) $suffix) -}}
{{- end -}}

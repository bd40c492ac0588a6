{{- define "kubeproxy-py.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "kubeproxy-py.configMap" -}}
{{ .Values.existingConfigMap | default "kubeproxy-py" }}
{{- end -}}

{{- /* The fields that both containers share. */ -}}
{{- define "kubeproxy-py.container" -}}
image: {{ include "kubeproxy-py.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
command: [/usr/local/bin/kube-proxy]
env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

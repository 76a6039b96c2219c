{{/* The name of everything in this release: the release's own, if that says what it is. */}}
{{- define "wenxin-operator.name" -}}
{{- if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" (.Release.Name | trunc 36 | trimSuffix "-") .Chart.Name }}
{{- end }}
{{- end }}

{{- define "wenxin-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wenxin-operator.labels" -}}
{{ include "wenxin-operator.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: wenxin
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "wenxin-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "wenxin-operator.name" .) }}
{{- end }}

{{/* The name of everything in this release: the release's own, if that says what it is. Room for 15 letters behind it. */}}
{{- define "wenxin-operator.name" -}}
{{- if contains .Chart.Name .Release.Name }}
{{- .Release.Name | trunc 48 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" (.Release.Name | trunc 32 | trimSuffix "-") .Chart.Name }}
{{- end }}
{{- end }}

{{- define "wenxin-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wenxin-operator.labels" -}}
{{ include "wenxin-operator.selector" . }}
app.kubernetes.io/component: operator
{{ include "wenxin-operator.commonLabels" . }}
{{- end }}

{{- define "wenxin-operator.commonLabels" -}}
app.kubernetes.io/part-of: wenxin
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Labels of what comes and goes with a hook: not selected by the operator's Service, budget and policy. */}}
{{- define "wenxin-operator.hookLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-{{ .component }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{ include "wenxin-operator.commonLabels" . }}
{{- end }}

{{- define "wenxin-operator.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "wenxin-operator.name" .) }}
{{- end }}

{{/* What every pod of ours says: restricted, where it may run, how its image is pulled. */}}
{{- define "wenxin-operator.pod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every container of ours says. */}}
{{- define "wenxin-operator.container" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{/* Small: they make a handful of requests. */}}
{{- define "wenxin-operator.hookResources" -}}
requests:
  cpu: 50m
  memory: 64Mi
limits:
  memory: 256Mi
{{- end }}

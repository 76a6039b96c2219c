{{/*
Values that contradict each other, and releases that would. What one value alone can say is in values.schema.json.
*/}}
{{- define "wenxin-operator.refusals" -}}
{{- $lease := .Values.lease }}
{{- $duration := include "wenxin-operator.seconds" $lease.duration | float64 }}
{{- $deadline := include "wenxin-operator.seconds" $lease.renewDeadline | float64 }}
{{- $period := include "wenxin-operator.seconds" $lease.retryPeriod | float64 }}
{{- if not (and (gt $duration $deadline) (gt $deadline $period)) }}
{{- printf "lease: duration (%s) must exceed renewDeadline (%s), and that retryPeriod (%s): the holder must give up before another copy takes over" $lease.duration $lease.renewDeadline $lease.retryPeriod | fail }}
{{- end }}
{{- $age := include "wenxin-operator.seconds" .Values.watchAge | float64 }}
{{- if lt $age (mulf 2 (include "wenxin-operator.seconds" .Values.resyncInterval | float64)) }}
{{- printf "watchAge (%s) must be at least twice resyncInterval (%s), else one slow list restarts the operator" .Values.watchAge .Values.resyncInterval | fail }}
{{- end }}
{{- if not (or .Values.serviceAccount.create .Values.serviceAccount.name) }}
{{- fail "serviceAccount.create is false: name yours in serviceAccount.name" }}
{{- end }}
{{- if and (eq .Values.metrics.provider "embedded") (eq (int .Values.httpPort) (int .Values.metrics.httpsPort)) }}
{{- printf "metrics.httpsPort and httpPort are both %d: two ports, please" (int .Values.httpPort) | fail }}
{{- end }}
{{- range $label, $_ := .Values.podLabels }}
{{- if or (hasPrefix "app.kubernetes.io/" $label) (hasPrefix "helm.sh/" $label) }}
{{- printf "podLabels: %s is the chart's own, for its Service, budget and policy find the pods by it" $label | fail }}
{{- end }}
{{- end }}
{{- include "wenxin-operator.refuseASecondRelease" . }}
{{- end }}

{{/*
Two releases that serve the same namespace would write the same objects in turns. The names of the roles are the same
for all releases, so Helm itself refuses the second; here it is said in words, and the cases between the two modes
are found, as far as whoever installs may look. `lookup` finds nothing in `helm template` and in dry runs.
*/}}
{{- define "wenxin-operator.refuseASecondRelease" -}}
{{- if and .Values.rbac.create (or .Values.crds.upgrade (not .Values.watchNamespaces)) }}
{{- $found := lookup "rbac.authorization.k8s.io/v1" "ClusterRole" "" .Chart.Name }}
{{- include "wenxin-operator.refuseOther" (dict "found" $found "serves" "the whole cluster" "release" .Release) }}
{{- end }}
{{- if .Values.rbac.create }}
{{- range .Values.watchNamespaces }}
{{- $found := lookup "rbac.authorization.k8s.io/v1" "Role" . $.Chart.Name }}
{{- include "wenxin-operator.refuseOther" (dict "found" $found "serves" (printf "namespace %s" .) "release" $.Release) }}
{{- else }}
{{- range (lookup "rbac.authorization.k8s.io/v1" "Role" "" "").items }}
{{- if and (eq .metadata.name $.Chart.Name) (eq (dig "labels" "app.kubernetes.io/name" "" .metadata) $.Chart.Name) }}
{{- include "wenxin-operator.refuseOther" (dict "found" . "serves" (printf "namespace %s" .metadata.namespace) "release" $.Release) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "wenxin-operator.refuseOther" -}}
{{- $name := dig "metadata" "annotations" "meta.helm.sh/release-name" "" .found }}
{{- $namespace := dig "metadata" "annotations" "meta.helm.sh/release-namespace" "" .found }}
{{- if and $name (not (and (eq $name .release.Name) (eq $namespace .release.Namespace))) }}
{{- printf "release %s in namespace %s serves %s already: use it, uninstall it, or give each release watchNamespaces of its own" $name $namespace .serves | fail }}
{{- end }}
{{- end }}

{{/* Seconds of a duration such as 1m30s; the schema has judged its form. */}}
{{- define "wenxin-operator.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 }}
{{- $sum := 0.0 }}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" . -1 }}
{{- $sum = addf $sum (mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexFind "[a-z]+$" .))) }}
{{- end }}
{{- $sum }}
{{- end }}

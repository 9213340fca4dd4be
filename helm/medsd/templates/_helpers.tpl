{{- define "medsd.fullname" -}}
{{- if contains "medsd" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-medsd" (.Release.Name | trunc 34 | trimSuffix "-") }}{{ end }}
{{- end }}

{{- define "medsd.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: medsd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "medsd.operatorLabels" -}}
app.kubernetes.io/name: medsd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "medsd.dashboardLabels" -}}
app.kubernetes.io/name: medsd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: dashboard
{{- end }}

{{- define "medsd.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default (printf "%s-cuda" .Chart.AppVersion) }}
{{- end }}

{{- /* The namespaces of the runs, as a JSON list. */ -}}
{{- define "medsd.runNamespaces" -}}
{{- $watched := .Values.watchNamespaces }}
{{- range .Values.runNamespaces }}
{{- if and $watched (not (has . $watched)) }}
{{- fail (printf "runNamespaces has %s, which watchNamespaces lacks: the operator would not see its runs; add it there" .) }}
{{- end }}
{{- end }}
{{- .Values.runNamespaces | default $watched | default (list .Release.Namespace) | toJson }}
{{- end }}

{{- define "medsd.runtimeSpec" -}}
{{- $spec := dict "image" (include "medsd.image" .) "imagePullPolicy" .Values.image.pullPolicy }}
{{- if .Values.image.pullSecrets }}{{ $_ := set $spec "imagePullSecrets" .Values.image.pullSecrets }}{{ end }}
{{- if .Values.workerServiceAccount.create }}{{ $_ := set $spec "serviceAccountName" .Values.workerServiceAccount.name }}{{ end }}
{{- $_ := set $spec "allowedNamespaces" (include "medsd.runNamespaces" . | fromJsonArray) }}
{{- mergeOverwrite $spec (deepCopy .Values.runtime.spec) | toYaml }}
{{- end }}

{{- define "medsd.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
{{- end }}

{{- /* What the chart's own pods have in common: the operator, the Runtime's hook, the test and the dashboard. */ -}}
{{- define "medsd.operatorPod" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: {type: RuntimeDefault}
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.operator.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.operator.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "medsd.operatorVolumes" -}}
- name: tmp
  emptyDir: {}
{{- with .Values.operator.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "medsd.operatorMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- with .Values.operator.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "medsd.operatorContainer" -}}
image: {{ include "medsd.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- include "medsd.containerSecurity" . | nindent 2 }}
  readOnlyRootFilesystem: true
env:
  - {name: HOME, value: /tmp}
  - {name: MEDSD_WATCH_NAMESPACES, value: {{ join "," .Values.watchNamespaces | quote }}}
  {{- with .Values.operator.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

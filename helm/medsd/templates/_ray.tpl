{{- /* A Ray pod of a Runtime, as medsd_ray/operator/manifests/pods.py makes it. */}}

{{- define "medsd.rayLabels" -}}
app.kubernetes.io/name: medsd
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: raycluster
{{- end }}

{{- define "medsd.rayPod" -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .runtime.runAsUser | default 1000 }}
  fsGroup: {{ .runtime.runAsUser | default 1000 }}
  seccompProfile: {type: RuntimeDefault}
{{- with .runtime.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" }}
{{- with get $.place $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{- define "medsd.rayVolumes" -}}
- name: medsd-tmp
  emptyDir: {}
- name: medsd-home
  emptyDir: {}
- name: medsd-shm
  emptyDir: {medium: Memory, sizeLimit: {{ .shared }}}
{{- with .runtime.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "medsd.rayContainer" -}}
image: {{ .image | quote }}
imagePullPolicy: {{ .imagePullPolicy }}
securityContext: {{- include "medsd.containerSecurity" . | nindent 2 }}
env: {{- include "medsd.rayEnvironment" . | nindent 2 }}
volumeMounts:
  - {name: medsd-tmp, mountPath: /tmp}
  - {name: medsd-home, mountPath: /tmp/home}
  - {name: medsd-shm, mountPath: /dev/shm}
  {{- with .volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
startupProbe: # KubeRay sets the others, for a Ray that starts within a minute; from a big image on a new node it does not
  httpGet: {path: /api/healthz, port: 52365}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 240
{{- end }}

{{- define "medsd.rayEnvironment" -}}
{{- $s3 := .s3 | default dict }}
{{- $region := dict "value" ($s3.region | default "us-east-1") }}
{{- $env := dict "HOME" (dict "value" "/tmp/home") "AWS_REGION" $region "AWS_DEFAULT_REGION" $region }}
{{- with $s3.endpoint }}{{ $_ := set $env "AWS_ENDPOINT_URL" (dict "value" .) }}{{ end }}
{{- if $s3.secretName }}
{{- range $key := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
{{- $_ := set $env $key (dict "valueFrom" (dict "secretKeyRef" (dict "name" $s3.secretName "key" $key))) }}
{{- end }}
{{- end }}
{{- if contains "@" .image }}{{ $_ := set $env "MEDSD_IMAGE_DIGEST" (dict "value" (splitList "@" .image | last)) }}{{ end }}
{{- range $key, $value := .env }}{{ $_ := set $env $key (dict "value" $value) }}{{ end }}
{{- range $key, $entry := $env }}
- {{ merge (dict "name" $key) $entry | toJson }}
{{- end }}
{{- end }}

{{- /* A quantity, such as 16Gi or 500m, as a number. */ -}}
{{- define "medsd.number" -}}
{{- $units := dict "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexFind "[A-Za-z]+$" . }}
{{- mulf (trimSuffix $unit . | float64) (get $units $unit | default 1 | float64) }}
{{- end }}

{{- /* Bytes of Ray's object store: half of /dev/shm, and no less than Ray takes. */ -}}
{{- define "medsd.objectStore" -}}
{{- divf (include "medsd.number" . | float64) 2 | int64 | max 80000000 }}
{{- end }}

{{/* What every pod's spec begins with. Arguments: list of the root and the component's values. */}}
{{- define "roost.pod" -}}
{{- $root := index . 0 -}}
{{- $values := index . 1 -}}
serviceAccountName: {{ include "roost.serviceAccount" $root }}
automountServiceAccountToken: false
# A Service called roost-serve would otherwise put ROOST_SERVE_* variables into every container.
enableServiceLinks: false
{{- with $root.Values.global.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
  {{- range $key, $value := $values.podSecurityContext }}
  {{- if not (kindIs "invalid" $value) }}
  {{ $key }}: {{ $value | int64 }}
  {{- end }}
  {{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "roost.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: { drop: [ALL] }
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* Labels and annotations of a pod. Arguments: list of the root, the component and its values. */}}
{{- define "roost.podLabels" -}}
{{ include "roost.labels" (list (index . 0) (index . 1)) }}
{{- with (index . 2).podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "roost.modelsVolume" -}}
- name: models
  {{- if .Values.models.existingClaim }}
  persistentVolumeClaim: { claimName: {{ .Values.models.existingClaim }}, readOnly: true }
  {{- else if .Values.models.image.reference }}
  image: {{ toYaml .Values.models.image | nindent 4 }}
  {{- else }}
  persistentVolumeClaim: { claimName: {{ include "roost.fullname" . }}-models, readOnly: true }
  {{- end }}
{{- end }}

{{- define "roost.modelsMount" -}}
- name: models
  mountPath: /models
  readOnly: true
  {{- with .Values.models.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}

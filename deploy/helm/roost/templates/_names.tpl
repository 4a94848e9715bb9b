{{- define "roost.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Short enough that `-qdrant-headless` and a pod's suffix still fit into 63 characters. */}}
{{- define "roost.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "roost.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "roost.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "roost.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "roost.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Arguments: list of the root and the component. */}}
{{- define "roost.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "roost.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "roost.labels" -}}
{{- $root := index . 0 -}}
{{ include "roost.selector" . }}
app.kubernetes.io/part-of: roost
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Arguments: list of the root, an image's values and the tag where they have none. A digest wins. */}}
{{- define "roost.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with default $image.registry $root.Values.global.imageRegistry }}{{ . }}/{{ end -}}
{{ $image.repository }}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 2) $image.tag }}{{ end }}
{{- end }}

{{/* Where the gateway keeps vectors: qdrant, external or embedded. */}}
{{- define "roost.storeKind" -}}
{{- if .Values.qdrant.enabled }}qdrant{{ else if .Values.externalQdrant.url }}external{{ else }}embedded{{ end }}
{{- end }}

{{/* Where the gateway computes embeddings: triton, external or embedded. */}}
{{- define "roost.backendKind" -}}
{{- if .Values.triton.enabled }}triton{{ else if .Values.externalTriton.url }}external{{ else }}embedded{{ end }}
{{- end }}

{{/* The secret and key of the store's API key, as `secret key`; empty where there is none. */}}
{{- define "roost.storeSecret" -}}
{{- $kind := include "roost.storeKind" . -}}
{{- $store := ternary .Values.qdrant .Values.externalQdrant (eq $kind "qdrant") -}}
{{- if and (ne $kind "embedded") $store.existingSecret }}{{ $store.existingSecret }} {{ $store.existingSecretKey }}{{ end }}
{{- end }}

{{/* The secret whose `key` lets the gateway have Triton load models; empty where there is none. */}}
{{- define "roost.tritonSecret" -}}
{{- $kind := include "roost.backendKind" . -}}
{{- if eq $kind "triton" }}{{ .Values.triton.adminSecret }}{{ else if eq $kind "external" }}{{ .Values.externalTriton.adminSecret }}{{ end }}
{{- end }}

{{/* The port of `scheme://host:port`. Arguments: list of the URL and the port where it has none. */}}
{{- define "roost.portOf" -}}
{{- $host := (urlParse (index . 0)).host -}}
{{- default (index . 1) (regexFind "[0-9]+$" (regexFind ":[0-9]+$" $host)) }}
{{- end }}

{{/* The container port of Qdrant's metrics; empty where it stays closed, since its whole REST API is behind it and neither
a key nor a choice of peers would guard that. */}}
{{- define "roost.qdrantMetrics" -}}
{{- if or .Values.qdrant.existingSecret .Values.networkPolicy.monitoring (not .Values.networkPolicy.enabled) }}http{{ end }}
{{- end }}

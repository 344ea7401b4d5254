{{- define "distcalib.address" -}}
tls://{{ .Release.Name }}-scheduler.{{ .Release.Namespace }}.svc:8786
{{- end }}

{{- define "distcalib.tls" -}}
- --protocol
- tls
- --tls-ca-file
- /etc/distcalib/tls/ca.pem
- --tls-cert
- /etc/distcalib/tls/cert.pem
- --tls-key
- /etc/distcalib/tls/key.pem
- --no-dashboard
- --dashboard-address
- 127.0.0.1:0
{{- end }}

{{- /* What all pods have: no account of the cluster, no root, and no writing but to a folder of their own. */}}
{{- define "distcalib.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "distcalib.container" -}}
image: {{ .Values.image.name | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{- define "distcalib.mounts" -}}
- name: tls
  mountPath: /etc/distcalib/tls
  readOnly: true
- name: scratch
  mountPath: /tmp
{{- end }}

{{- /* Where the run is kept, of the job and the workers, not of the scheduler: a volume, or an object store. */}}
{{- define "distcalib.runs.mount" -}}
{{- if not (hasPrefix "s3://" .Values.runFolder) -}}
- name: runs
  mountPath: /runs
{{- end }}
{{- end }}

{{- define "distcalib.runs.volume" -}}
{{- if not (hasPrefix "s3://" .Values.runFolder) -}}
- name: runs
  persistentVolumeClaim:
    claimName: {{ .Values.runClaim }}
{{- end }}
{{- end }}

{{- define "distcalib.runs.credentials" -}}
{{- if hasPrefix "s3://" .Values.runFolder -}}
envFrom:
  - secretRef:
      name: {{ required "store.secret is the Secret with the credentials of the object store" .Values.store.secret }}
{{- end }}
{{- end }}

{{- define "distcalib.volumes" -}}
- name: tls
  secret:
    secretName: {{ .Values.tlsSecret }}
    defaultMode: 0440
- name: scratch
  emptyDir: {}
{{- end }}

{{- /* Requests and limits alike: a pod has what it asks for. */}}
{{- define "distcalib.amounts" -}}
{{- $gpus := .gpus }}
{{- $group := .group }}
resources:
  {{- range list "requests" "limits" }}
  {{ . }}:
    cpu: {{ $group.cpu | quote }}
    memory: {{ $group.memoryGiB }}Gi
    {{- if $gpus }}
    nvidia.com/gpu: {{ $gpus | quote }}
    {{- end }}
  {{- end }}
{{- end }}

{{- define "distcalib.environment" -}}
- name: DASK_SCHEDULER_ADDRESS
  value: {{ include "distcalib.address" . }}
{{- range $name, $text := .Values.environment }}
- name: {{ $name }}
  value: {{ $text | quote }}
{{- end }}
{{- end }}

{{- /* A pod of workers: root (the chart's scope), group (values), processes, resources (of Dask), gpus. */}}
{{- define "distcalib.worker" -}}
{{- $limit := div (mul .group.memoryGiB 1024 9) (mul 10 .processes) }}
{{- include "distcalib.pod" .root }}
{{- with .group.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .group.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: worker
    {{- include "distcalib.container" .root | nindent 4 }}
    args:
      - dask
      - worker
      - {{ include "distcalib.address" .root }}
      - --name
      - $(DASK_WORKER_NAME)
      - --nworkers
      - {{ .processes | quote }}
      - --nthreads
      - "1"
      - --memory-limit
      - {{ $limit }}MiB
      - --local-directory
      - /tmp
      - --preload-nanny
      - /opt/distcalib/deploy/warm.py
      {{- with .resources }}
      - --resources
      - {{ . | quote }}
      {{- end }}
      {{- include "distcalib.tls" .root | nindent 6 }}
    env:
      {{- include "distcalib.environment" .root | nindent 6 }}
    {{- include "distcalib.runs.credentials" .root | nindent 4 }}
    {{- include "distcalib.amounts" . | nindent 4 }}
    volumeMounts:
      {{- include "distcalib.mounts" .root | nindent 6 }}
      {{- include "distcalib.runs.mount" .root | nindent 6 }}
volumes:
  {{- include "distcalib.volumes" .root | nindent 2 }}
  {{- include "distcalib.runs.volume" .root | nindent 2 }}
{{- end }}

{{- /* The spec of a DaskCluster, which a DaskJob has inside. */}}
{{- define "distcalib.cluster" -}}
worker:
  replicas: {{ .Values.sim.pods }}
  spec:
    {{- $resources := ternary "" "FIT=1" (gt (int .Values.fit.pods) 0) }}
    {{- $own := dict "root" . "group" .Values.sim "processes" .Values.sim.cpu "gpus" 0 "resources" $resources }}
    {{- include "distcalib.worker" $own | nindent 4 }}
scheduler:
  spec:
    {{- include "distcalib.pod" . | nindent 4 }}
    containers:
      - name: scheduler
        {{- include "distcalib.container" . | nindent 8 }}
        args:
          - dask
          - scheduler
          - --port
          - "8786"
          {{- include "distcalib.tls" . | nindent 10 }}
        ports:
          - name: tcp-comm
            containerPort: 8786
            protocol: TCP
        readinessProbe:
          tcpSocket:
            port: tcp-comm
          periodSeconds: 5
        {{- include "distcalib.amounts" (dict "group" .Values.scheduler "gpus" 0) | nindent 8 }}
        volumeMounts:
          {{- include "distcalib.mounts" . | nindent 10 }}
    volumes:
      {{- include "distcalib.volumes" . | nindent 6 }}
  service:
    type: ClusterIP
    selector:
      dask.org/cluster-name: {{ .Release.Name }}
      dask.org/component: scheduler
    ports:
      - name: tcp-comm
        protocol: TCP
        port: 8786
        targetPort: tcp-comm
{{- end }}

#!/bin/sh
# A job of the workflow as a Kubernetes Job: `submit THREADS MEM_MB GPUS SCRIPT` prints its name, `status NAME` says
# running, success or failed, `cancel NAME...` deletes. VOLUME (a claim that many pods may mount), MOUNT and IMAGE are
# taken from the environment.
set -eu
action=$1
shift
case $action in
submit)
    # They stand in quotes below.
    case $PWD$4${VOLUME-}${MOUNT-}${IMAGE-} in
    *[\"\\]* | *"
"*) printf '%s: no quotes, backslash or line break in the folder, VOLUME, MOUNT or IMAGE\n' "$PWD" >&2 && exit 1 ;;
    esac
    # All of the limits are requests too. The workflow tries again; the cluster does not.
    kubectl create -o name -f - <<JOB | sed 's|.*/||'
apiVersion: batch/v1
kind: Job
metadata: {generateName: neutral-residues-}
spec:
  backoffLimit: 0
  ttlSecondsAfterFinished: 86400
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: job
          image: "${IMAGE:-neutral-residues:latest}"
          workingDir: "$PWD"
          command: [sh, "$4"]
          resources: {limits: {cpu: "$1", memory: "$2Mi", nvidia.com/gpu: "$3"}}
          volumeMounts: [{name: data, mountPath: "${MOUNT:-/data}"}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: "${VOLUME:-neutral-residues}"}}]
JOB
    ;;
status)
    case $(kubectl get job "$1" -o 'jsonpath={.status.conditions[*].type}') in
    *Failed*) echo failed ;;
    *Complete*) echo success ;;
    *) echo running ;;
    esac
    ;;
cancel) kubectl delete job "$@" ;;
esac

"""The part of Kubernetes' schemas that launch/gke.yaml uses, as JSON schema.

From the public references of jobset.x-k8s.io/v1alpha2 (JobSet), batch/v1 (Job)
and core/v1 (Pod). Objects are closed, so that a misspelt field is an error, as
it is to the server.
"""

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"}
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITIES = {"type": "object",
              "additionalProperties": {"type": ["integer", "string"]}}


def closed(required=(), **properties):
  """An object with these fields and no others."""
  return {"type": "object", "properties": properties,
          "required": list(required), "additionalProperties": False}


def some(items):
  """A list that is not empty."""
  return {"type": "array", "items": items, "minItems": 1}


CONTAINER = closed(
    ["name", "image"], name=NAME, image=TEXT, workingDir=TEXT,
    command=some(TEXT), args=some(TEXT),
    env=some(closed(["name"], name=TEXT, value={"type": "string"})),
    ports=some(closed(["containerPort"], name=NAME, containerPort={
        "type": "integer", "minimum": 1, "maximum": 65535})),
    resources=closed(requests=QUANTITIES, limits=QUANTITIES))

POD = closed(
    ["containers"], containers=some(CONTAINER), nodeSelector=WORDS,
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]}, subdomain=NAME,
    terminationGracePeriodSeconds=COUNT, serviceAccountName=NAME)

POD_FAILURE_POLICY = closed(["rules"], rules=some(closed(
    ["action"], action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=closed(
        ["operator", "values"], containerName=NAME,
        operator={"enum": ["In", "NotIn"]}, values=some({"type": "integer"})))))

JOB = closed(
    ["template"], completions=COUNT, parallelism=COUNT, backoffLimit=COUNT,
    completionMode={"enum": ["NonIndexed", "Indexed"]},
    podFailurePolicy=POD_FAILURE_POLICY,
    template=closed(["spec"], metadata=closed(labels=WORDS, annotations=WORDS),
                    spec=POD))

JOBSET = closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"}, kind={"const": "JobSet"},
    metadata=closed(["name"], name=NAME, namespace=NAME, labels=WORDS,
                    annotations=WORDS),
    spec=closed(
        network=closed(
            enableDNSHostnames={"type": "boolean"}, subdomain=NAME,
            publishNotReadyAddresses={"type": "boolean"}),
        failurePolicy=closed(maxRestarts=COUNT, rules=some(closed(
            ["name", "action"], name=TEXT,
            action={"enum": ["FailJobSet", "RestartJobSet",
                             "RestartJobSetAndIgnoreMaxRestarts"]},
            onJobFailureReasons=some({"enum": [
                "BackoffLimitExceeded", "DeadlineExceeded",
                "FailedIndexes", "MaxFailedIndexesExceeded",
                "PodFailurePolicy"]}),
            targetReplicatedJobs=some(NAME)))),
        successPolicy=closed(
            ["operator"], operator={"enum": ["All", "Any"]},
            targetReplicatedJobs=some(NAME)),
        suspend={"type": "boolean"}, ttlSecondsAfterFinished=COUNT,
        replicatedJobs=some(closed(
            ["name", "template"], name=NAME, replicas=COUNT,
            template=closed(["spec"], metadata=closed(
                labels=WORDS, annotations=WORDS), spec=JOB)))))

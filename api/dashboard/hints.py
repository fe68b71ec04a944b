"""What a person can do about the end of an attempt, by its cause."""

HINTS = {
    "oom": "The device ran out of memory. Stop what else uses it, or learn with a base and batch that fit: "
    "`opad doctor` tells what each part needs.",
    "invalid": "The training refused what it was given. The sentence above names it; correct it and learn again.",
    "lost_worker": "The worker died or fell silent. See whether its machine is up and has memory, then retry: "
    "the training goes on from its last checkpoint.",
    "storage": "The object store did not answer, or lost a file. See Storage and System, then retry.",
    "diverged": "The losses ran away twice. Retry with another seed, or with more uniform photos.",
    "internal": "A mistake of ours, or of the machine. The log below has the trace; "
    "a retry goes on from the last checkpoint.",
    "shutdown": "The worker was stopped in order and gave the job back; nothing is lost.",
}

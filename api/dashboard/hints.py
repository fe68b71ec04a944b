"""Advice for a person whose job failed, by the cause."""

HINTS = {
    "oom": "The device ran out of memory. Stop other programs that use it, or choose a base and batch that fit: "
    "`python -m opad_core doctor` shows what each part of a base needs.",
    "invalid": "The training refused its input. Correct what the message above names, and train again.",
    "lost_worker": "The worker died or stopped sending heartbeats. Check that its machine is up and has free memory, "
    "then retry: the training continues from its last checkpoint.",
    "storage": "The object store did not answer, or a file is missing. See Storage and System, then retry.",
    "diverged": "The losses diverged twice. Retry with another seed, or train on more uniform photos.",
    "internal": "An error in OPAD or in the machine. The log below has the trace; "
    "a retry continues from the last checkpoint.",
    "shutdown": "The worker was shut down and gave the job back; nothing is lost.",
}

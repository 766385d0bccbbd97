"""What can go wrong before a shipped workflow does any work.

ValueError
└── WorkflowInputError                the payload cannot be used; it fails in the same way on every attempt
    └── DocumentError
        ├── DocumentSourceError       neither text nor path, both, or a value of the wrong type
        ├── EmptyDocumentError        nothing but white space
        ├── UnreadableDocumentError   no such file, not a file, no permission, too large
        ├── BinaryDocumentError       not text: NUL bytes, not UTF-8, or half a surrogate pair
        └── ThrottleError             throttleSeconds is not a number from 0 to 60
RuntimeError
└── ModelSupportError                 a model is set, but a package that it needs is not installed
"""

__all__ = [
    "BinaryDocumentError",
    "DocumentError",
    "DocumentSourceError",
    "EmptyDocumentError",
    "ModelSupportError",
    "ThrottleError",
    "UnreadableDocumentError",
    "WorkflowInputError",
]


class WorkflowInputError(ValueError):
    """The payload of a shipped workflow cannot be used; the same payload fails on every attempt."""


class ModelSupportError(RuntimeError):
    """A chat model was asked for, and cannot be made."""


class DocumentError(WorkflowInputError):
    """The payload of an extraction cannot be used."""


class DocumentSourceError(DocumentError):
    """The payload does not say, or says twice, which document is meant."""


class EmptyDocumentError(DocumentError):
    """The document holds nothing to read."""


class UnreadableDocumentError(DocumentError):
    """The file cannot be opened, or is larger than a document may be."""


class BinaryDocumentError(DocumentError):
    """The document is not text."""


class ThrottleError(DocumentError):
    """The pause between stages is not a number of seconds from 0 to 60."""

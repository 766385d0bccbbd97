"""What can go wrong before a shipped workflow does any work.

ValueError
└── WorkflowInputError                the payload cannot be used; it fails in the same way on every attempt
    └── DocumentError
        ├── DocumentSourceError       neither text nor path, both, or a value of the wrong type
        ├── EmptyDocumentError        nothing but white space
        │   └── ScannedDocumentError  a PDF that holds pictures of its pages, and no text
        ├── UnreadableDocumentError   no such file, not a file, no permission, too large
        │   ├── DocumentTooLargeError
        │   └── DocumentLinkError     a link out of the root, or to a directory that it is in
        ├── BinaryDocumentError       not text: NUL bytes, not UTF-8, or half a surrogate pair
        ├── UnknownKindError          neither text, Markdown, HTML, PDF nor JSONL, going by its name
        ├── BrokenDocumentError       HTML, a PDF or a line of JSON that cannot be read as such
        │   └── EncryptedDocumentError
        ├── DocumentSupportError      the package that reads this kind is not installed
        └── ThrottleError             throttleSeconds is not a number from 0 to 60
RuntimeError
└── ModelSupportError                 a model is set, but a package that it needs is not installed
"""

__all__ = [
    "BinaryDocumentError",
    "BrokenDocumentError",
    "DocumentError",
    "DocumentLinkError",
    "DocumentSourceError",
    "DocumentSupportError",
    "DocumentTooLargeError",
    "EmptyDocumentError",
    "EncryptedDocumentError",
    "ModelSupportError",
    "ScannedDocumentError",
    "ThrottleError",
    "UnknownKindError",
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


class ScannedDocumentError(EmptyDocumentError):
    """The PDF has pages, but no text on them: it needs character recognition first."""


class UnreadableDocumentError(DocumentError):
    """The file cannot be opened, or is larger than a document may be."""


class DocumentTooLargeError(UnreadableDocumentError):
    """The document, or the text in it, is larger than was allowed."""


class DocumentLinkError(UnreadableDocumentError):
    """A path leads out of the directory that documents may come from, or round in a circle."""


class BinaryDocumentError(DocumentError):
    """The document is not text."""


class UnknownKindError(DocumentError):
    """The file's name does not end like one of a kind that is read."""


class BrokenDocumentError(DocumentError):
    """The document is not what its name says, or took more time or memory to read than was allowed."""


class EncryptedDocumentError(BrokenDocumentError):
    """The document opens with a password only, or with a package that is not installed."""


class DocumentSupportError(DocumentError):
    """A package that reads documents of this kind is not installed."""


class ThrottleError(DocumentError):
    """The pause between stages is not a number of seconds from 0 to 60."""

"""Lightning, under either of its names."""

try:
    import lightning.pytorch as pl
except ImportError:
    try:
        import pytorch_lightning as pl
    except ImportError as error:
        raise ImportError('training needs Lightning: pip install "spikevit[train]"') from error

__all__ = ["pl"]

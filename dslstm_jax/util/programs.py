"""Compiled programs, kept for later processes."""

import jax
import platformdirs


def keep_programs() -> None:
    """Compiled programs are kept in the user's cache folder for later processes, unless JAX was told of a place
    (JAX_COMPILATION_CACHE_DIR) or no folder can be made there."""
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = platformdirs.user_cache_path("dslstm_jax") / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

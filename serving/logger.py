"""The one logger of `serving`, under BentoML's name.

BentoML's server disables every logger that exists when it configures logging, except those below "bentoml".
Without BentoML, as in flows, its messages reach the root logger.
"""

import logging

logger = logging.getLogger("bentoml.relearn")

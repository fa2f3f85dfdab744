"""The one logger of `serving`, named as a child of BentoML's.

When BentoML's server configures logging, it disables all loggers that exist, except "bentoml" and its
children. Without BentoML, as in flows, messages go to the root logger.
"""

import logging

logger = logging.getLogger("bentoml.relearn")

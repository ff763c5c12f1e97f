"""The page of the leaderboard: takes records, gives a folder of HTML with its data, which any web server or none can show.

Every page stands alone: style and script are inside it, it asks for nothing, and it is whole without its script.
"""

from leaderboard.site.pages import write_site

__all__ = ["write_site"]

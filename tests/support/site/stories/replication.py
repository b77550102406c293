"""One section of the site as a dataset: its pages, and all that a page is without which it breaks.

What Wagtail's and Django's migrations make in each environment (the root page, the first page below
it, a locale, the root of the collections, the groups Editors and Moderators) has the same keys
everywhere. Some of it belongs to the dataset: treebeard finds pages below another one only if that
one counts children (`numchild`), so the pages above the section travel with it. A target therefore
subscribes with `"on_clash": "adopt"`.
"""

from django.db.models import Q
from wagtail.models import Page, get_page_models

from replicator import (
    Children,
    Referenced,
    Rows,
    children_for_derived_models,
    dataset,
    opt_in,
    opt_out,
)
from tests.support.site.stories.models import ArticlePageTag, Clip

for model in get_page_models():
    opt_in(model)
opt_in(ArticlePageTag)
opt_in(Clip)
opt_in("wagtailcore.Revision")
opt_in("wagtailcore.PageViewRestriction")
opt_in("wagtailcore.PageViewRestriction_groups")
opt_in("wagtailcore.GroupPagePermission")
opt_in("wagtailcore.Locale")
opt_in("wagtailcore.Collection")
opt_in("wagtailcore.GroupCollectionPermission")
opt_in("wagtailimages.Image")
opt_in("wagtailimages.Rendition")
opt_in("taggit.Tag")
opt_in("taggit.TaggedItem")
opt_in("auth.User", only=["id", "username", "first_name", "last_name", "is_active"])
opt_in("auth.User_groups")
opt_in("auth.Group")
opt_in("auth.Group_permissions")

# Each environment has host names of its own, and what hangs on them.
opt_out("wagtailcore.Site", "wagtailcore.GroupSitePermission", "wagtailredirects.Redirect")
# Made from the rows by each environment: `rebuild_references_index`, `update_index`, on demand.
opt_out("wagtailcore.ReferenceIndex", "wagtailsearch.IndexEntry", "wagtailembeds.Embed")
# Work in progress, and what was done by whom.
opt_out("wagtailcore.Comment", "wagtailcore.CommentReply", "wagtailcore.PageSubscription")
opt_out("wagtailcore.Workflow", "wagtailcore.WorkflowState", "wagtailcore.WorkflowPage")
opt_out("wagtailcore.WorkflowContentType", "wagtailcore.WorkflowTask", "wagtailcore.Task")
opt_out("wagtailcore.TaskState", "wagtailcore.GroupApprovalTask")
opt_out("wagtailcore.GroupApprovalTask_groups", "wagtailcore.UploadedFile")
opt_out("wagtailcore.PageLogEntry", "wagtailcore.ModelLogEntry")
opt_out("wagtailadmin.EditingSession", "wagtailadmin.FormState", "wagtailadmin.Admin")
# Who logs in where.
opt_out("wagtailcore.APIToken", "wagtailusers.UserProfile", "auth.User_user_permissions")
# Only documents, of which this site has none, are restricted by collection.
opt_out("wagtailcore.CollectionViewRestriction")
opt_out("wagtailcore.CollectionViewRestriction_groups")


@dataset("section")
def section(url_path: str):
    """Give the rules of the pages at and below a path, such as `/home/news/`."""
    if not (url_path.startswith("/") and url_path.endswith("/")):
        raise ValueError("write the path as Wagtail does: /home/news/")
    steps = url_path.strip("/").split("/")
    above = ["/", *("/" + "/".join(steps[:n]) + "/" for n in range(1, len(steps)))]
    return [
        Rows(
            Page,
            where=Q(url_path__startswith=url_path) | Q(url_path__in=above),
            null=["live_revision", "latest_revision", "locked_by", "alias_of"],
        ),
        children_for_derived_models(Page),
        # A revision points at its page by the page's own type.
        children_for_derived_models(Page, of="_revisions"),
        Children("wagtailcore.PageViewRestriction", of="page"),
        Children("wagtailcore.PageViewRestriction_groups", of="pageviewrestriction"),
        Children("wagtailcore.GroupPagePermission", of="page"),
        Children(ArticlePageTag, of="content_object"),
        Children(Clip, of="article"),
        Children("taggit.TaggedItem", of="stories.Clip.tagged_items"),
        Children("taggit.TaggedItem", of="wagtailimages.Image.tagged_items"),
        Referenced("taggit.Tag"),
        Referenced("wagtailimages.Image"),
        Children("wagtailimages.Rendition", of="image"),
        # Few rows; collections are a tree without foreign keys to the parent.
        Rows("wagtailcore.Locale"),
        Rows("wagtailcore.Collection"),
        Children("wagtailcore.GroupCollectionPermission", of="collection"),
        Referenced(
            "auth.User",
            via=[
                "wagtailcore.Page.owner",
                "wagtailcore.Revision.user",
                "wagtailimages.Image.uploaded_by_user",
            ],
        ),
        Children("auth.User_groups", of="user"),
        Referenced("auth.Group"),
        Children("auth.Group_permissions", of="group"),
    ]

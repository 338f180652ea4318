"""Images of products: from links to vectors.

fetch            a link -> bytes -> pixels, several at once
local_files      links to files below permitted folders
download         links to http(s), with one deadline for everything
addresses        which addresses a download may connect to
pixels           bytes of an image -> pixels of one size
vectors          pixels -> vectors, with a cache by content hash
product_images   which images of a product must be fetched, and how they are put into its features
refresh          products whose images changed behind their links
"""

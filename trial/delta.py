import pathlib, sys
from minildm import storage
P=pathlib.Path
pre,_=storage.read(P("trial/pre.safetensors")); ship,_=storage.read(P("minildm/weights/pocket/unet.safetensors"))
new,_=storage.read(P("trial/nft9/go1-warm.safetensors"))
d1=sum(((ship[k].float()-pre[k].float())**2).sum() for k in new)**.5; d2=sum(((new[k].float()-ship[k].float())**2).sum() for k in new)**.5; n=sum((ship[k].float()**2).sum() for k in new)**.5
dot=sum(((ship[k].float()-pre[k].float())*(new[k].float()-ship[k].float())).sum() for k in new)/(d1*d2)
print("norm",n,"nft delta",d1,"sft delta",d2,"cos",dot)
for lam in (0.5,1.0):
    storage.write(P(f"trial/nft9/d{lam}.safetensors"),{k:(new[k].float()+lam*(ship[k].float()-pre[k].float())).contiguous() for k in new},{})
